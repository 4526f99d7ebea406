# Completion of perpcs in fish: perpcs completion fish | source, or this file in ~/.config/fish/completions.
function __perpcs_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in (env _PERPCS_COMPLETE=1 $words[1] $words[2..-1] 2>/dev/null)
        switch $line
            case :file
                __fish_complete_path (commandline -ct)
            case :directory
                __fish_complete_directories (commandline -ct)
            case :more
            case '*'
                echo $line
        end
    end
end
complete -c perpcs -f -a '(__perpcs_complete)'
